//! Mounting: EROFS images and overlays.
