//! [`Reason`]: why a layer does not come in a way that is cheaper than the whole.

use std::fmt;
use std::io;

use crate::error::Failure;

/// Why a layer is not made of parts, or by a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    message: String,
    failure: Option<Failure>,
}

impl Reason {
    /// The failure that it is where this way has nothing to do with it: an outage of the registry, or a signal. Nothing says then that the layer comes in another way.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// It as an error, which is still a [`Failure`] where it was one.
    pub(super) fn error(self) -> io::Error {
        self.failure.map_or_else(|| io::Error::other(self.message), io::Error::other)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<String> for Reason {
    fn from(message: String) -> Self {
        Self { message, failure: None }
    }
}

impl From<&str> for Reason {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

impl From<Failure> for Reason {
    fn from(failure: Failure) -> Self {
        Self { message: failure.to_string(), failure: Some(failure) }
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        error.downcast::<Failure>().map_or_else(|error| error.to_string().into(), Self::from)
    }
}
