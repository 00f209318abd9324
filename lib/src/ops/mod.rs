//! The verbs: the only place where the owners meet. One file per verb: options, a pure plan, and its application.

mod arguments;
pub mod digest;
pub mod disk;
mod firmware;
pub mod health;
pub mod host;
pub mod lint;
pub mod prune;
pub mod pull;
pub mod rollback;
mod runtime;
pub mod seal;
pub mod setup_root;
mod stage;
pub mod status;
pub mod upgrade;
pub mod verify;
