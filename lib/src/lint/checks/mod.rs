//! The checks, one file each.

mod accounts;
mod boot_loader;
mod boot_loader_update;
mod configuration;
mod container_marker;
mod directories;
mod empty_password;
mod hidden_content;
mod hostname;
mod init;
mod initramfs;
mod initramfs_modules;
mod initramfs_stale;
mod kargs;
mod kernel;
mod layer_waste;
mod logs;
mod machine_id;
mod machine_secrets;
mod mount_points;
mod os_release;
mod package_cache;
mod rebuild_caches;
mod rebuild_times;
mod resolv_conf;
mod root_file_system;
mod seal_annotations;
mod setuid;
mod sparse_entries;
mod ssh_host_keys;
mod state_links;
mod sysusers;
mod uki_digest;
mod uki_foreign;
mod uki_unsigned;
mod uki_verity;
mod upgrade_programs;
mod usr_etc;
mod var_content;
mod var_run;
mod volatile_content;
mod world_writable;

use super::{Check, Found, Look, Severity, Subject};

/// The check that tells of the directories that booting needs.
pub const DIRECTORIES: &str = directories::CHECK.id;

/// All checks, in the order of their findings: what keeps an image from booting first.
pub const CHECKS: &[Check] = &[
    sparse_entries::CHECK,
    root_file_system::CHECK,
    directories::CHECK,
    init::CHECK,
    kernel::CHECK,
    initramfs::CHECK,
    initramfs_modules::CHECK,
    boot_loader::CHECK,
    kargs::CHECK,
    configuration::CHECK,
    uki_digest::CHECK,
    uki_verity::CHECK,
    seal_annotations::CHECK,
    machine_id::CHECK,
    machine_secrets::CHECK,
    ssh_host_keys::CHECK,
    empty_password::CHECK,
    world_writable::CHECK,
    uki_unsigned::CHECK,
    uki_foreign::CHECK,
    initramfs_stale::CHECK,
    mount_points::CHECK,
    os_release::CHECK,
    boot_loader_update::CHECK,
    upgrade_programs::CHECK,
    state_links::CHECK,
    usr_etc::CHECK,
    var_run::CHECK,
    var_content::CHECK,
    accounts::CHECK,
    sysusers::CHECK,
    resolv_conf::CHECK,
    hostname::CHECK,
    container_marker::CHECK,
    volatile_content::CHECK,
    hidden_content::CHECK,
    package_cache::CHECK,
    logs::CHECK,
    setuid::CHECK,
    layer_waste::CHECK,
    rebuild_times::CHECK,
    rebuild_caches::CHECK,
];
