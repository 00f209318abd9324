//! A virtual machine: a QEMU process with UEFI firmware, one disk, user-mode networking and a channel to its guest agent.

mod accel;
mod agent;
mod machine;

pub(crate) use accel::Accel;
pub(crate) use machine::Machine;
