#!/bin/bash
# Puts the root of a selkie machine together, in an initramfs that systemd runs.

check() {
    require_binaries "$systemdutildir/systemd" || return 1
    [[ -x "${dracutsysrootdir-}/usr/lib/selkie/selkie-initramfs" ]] || return 1
    return 0
}

depends() {
    echo systemd systemd-initrd systemd-udevd systemd-journald systemd-emergency
}

installkernel() {
    # What the root is made of.
    hostonly='' instmods erofs overlay
    # The physical root, and the buses and disks that it may be on: virtual machines of all makers, then common hardware.
    hostonly='' instmods ext4 crc32c
    hostonly='' instmods virtio_pci virtio_mmio virtio_blk virtio_scsi xen-blkfront hv_vmbus hv_storvsc pci-hyperv vmw_pvscsi
    hostonly='' instmods nvme vmd ahci ata_piix sd_mod mpt3sas megaraid_sas uas usb_storage xhci_pci ehci_pci mmc_block sdhci_pci sdhci_acpi
    # systemd-boot tells in an EFI variable which disk it was started from; without it the root cannot be found by partition type.
    hostonly='' instmods efivarfs
    # The console, and randomness for the keys of the journal.
    hostonly='' instmods virtio_console virtio_rng
    # Watchdogs of boards and of virtual machines, for a boot that hangs here.
    hostonly='' instmods iTCO_wdt i6300esb sp5100_tco
}

install() {
    inst_binary /usr/lib/selkie/selkie-initramfs
    inst_simple "$moddir/selkie-setup-root.service" "$systemdsystemunitdir/selkie-setup-root.service"
    $SYSTEMCTL -q --root "$initdir" add-requires initrd-root-fs.target selkie-setup-root.service
    inst_simple "$moddir/selkie-boot-failed.service" "$systemdsystemunitdir/selkie-boot-failed.service"
    $SYSTEMCTL -q --root "$initdir" add-wants emergency.target selkie-boot-failed.service
    inst_binary /bin/sleep

    # Whether the service manager keeps a watchdog is the image's to say, from the start.
    inst_multiple -o "$systemdutildir"/system.conf.d/*.conf

    # The kernel loads file systems by calling modprobe. The rest is for whoever looks at a boot that failed.
    inst_multiple modprobe mount umount
    inst_multiple -o sh sulogin cat ls dmesg journalctl lsblk findmnt blkid

    # An initramfs is told from a system by this file; dracut-systemd would write it from os-release.
    if [[ ! -s "$initdir/usr/lib/initrd-release" ]]; then
        mkdir -p "$initdir/usr/lib" "$initdir/etc"
        {
            grep -hE -v '^(VERSION|PRETTY_NAME)=' "${dracutsysrootdir-}/etc/os-release" 2> /dev/null
            echo 'PRETTY_NAME="selkie (initramfs)"'
        } > "$initdir/usr/lib/initrd-release"
        ln -sf ../usr/lib/initrd-release "$initdir/etc/initrd-release"
        ln -sf initrd-release "$initdir/usr/lib/os-release"
        ln -sf ../usr/lib/initrd-release "$initdir/etc/os-release"
    fi

    # Where the physical root is mounted, and a user for sulogin. The password is locked: a shell on a failed boot has to be asked for
    # with systemd.setenv=SYSTEMD_SULOGIN_FORCE=1 in the kernel arguments.
    mkdir -p "$initdir/sysroot" "$initdir/root"
    grep -q '^root:' "$initdir/etc/passwd" 2> /dev/null || echo 'root:x:0:0:root:/root:/bin/sh' >> "$initdir/etc/passwd"
    grep -q '^root:' "$initdir/etc/shadow" 2> /dev/null || echo 'root:!*:::::::' >> "$initdir/etc/shadow"
}
