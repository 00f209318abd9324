//! The verbs: the only place where the owners meet. One file per verb: options, a pure plan, and its application.

mod arguments;
pub mod auto_update;
pub mod boot_once;
pub mod config;
pub mod diff;
pub mod digest;
pub mod disk;
mod firmware;
pub mod fsck;
pub mod gc;
pub mod health;
pub mod host;
pub mod lint;
pub mod list;
pub mod pin;
pub mod prune;
pub mod pull;
pub mod rollback;
mod runtime;
pub mod seal;
pub mod setup_root;
mod space;
mod stage;
pub mod status;
pub mod upgrade;
pub mod verify;
