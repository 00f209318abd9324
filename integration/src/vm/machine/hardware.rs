//! What a machine is made of, as QEMU's command line.

use super::{Machine, SECOND_DISK};
use crate::command::Argv;

const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The memory of a guest, in MiB.
pub(crate) const MEMORY: u64 = 1536;
/// Firmware that checks signatures. It keeps its variables where only the processor's management mode can write.
const SECURE_FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";

impl Machine {
    /// The command line of QEMU.
    pub(super) fn argv(&self) -> Argv {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let second = self.dir.join(SECOND_DISK);
        let (machine, firmware) = if self.secure_boot { ("q35,smm=on", SECURE_FIRMWARE) } else { ("q35", FIRMWARE) };
        let guarded = ["-global", "driver=cfi.pflash01,property=secure,value=on"];
        Argv::new(["qemu-system-x86_64", "-machine", machine, "-smp", "1", "-m", &MEMORY.to_string(), "-display", "none", "-nodefaults"])
            .with(self.accel.words())
            .with(if self.secure_boot { &guarded[..] } else { &[] })
            .with(["-drive".to_owned(), format!("if=pflash,format=raw,unit=0,readonly=on,file={firmware}")])
            .with(["-drive".to_owned(), format!("if=pflash,format=raw,unit=1,file={}", path("vars.fd"))])
            .with(self.drive(&path("disk.raw"), &path("writes.log")))
            .with(
                second
                    .exists()
                    .then(|| ["-drive".to_owned(), format!("if=virtio,format=raw,file={}", second.display())])
                    .into_iter()
                    .flatten(),
            )
            // One console log over all boots of a machine.
            .with(["-chardev".to_owned(), format!("file,id=console,append=on,path={}", path("serial.log"))])
            .with(["-serial", "chardev:console", "-device", "virtio-serial-pci"])
            .with(["-chardev".to_owned(), format!("socket,id=agent,server=on,wait=off,path={}", self.socket().display())])
            .with(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"])
            .with(["-chardev".to_owned(), format!("socket,id=monitor,server=on,wait=off,path={}", self.run.join("monitor.sock").display())])
            .with(["-mon", "chardev=monitor,mode=control"])
            .with(["-device", "virtio-rng-pci"])
            // romfile=: no network boot, so no boot ROM, which is in a package of its own.
            .with(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="])
            .with(if self.watchdog { &["-device", "i6300esb", "-action", "watchdog=reset"][..] } else { &[] })
    }

    /// Its disk. With a log, nothing is discarded, and flushes end in the log: the host's own disk need not hear of them.
    fn drive(&self, disk: &str, log: &str) -> Vec<String> {
        if !self.write_log {
            return vec!["-drive".to_owned(), format!("if=virtio,format=raw,discard=unmap,file={disk}")];
        }
        let file = |node: &str, path: &str| format!("driver=file,node-name={node},cache.no-flush=on,filename={path}");
        let nodes = [
            file("medium", disk),
            file("log", log),
            "driver=raw,node-name=raw,file=medium".to_owned(),
            "driver=blklogwrites,node-name=disk,file=raw,log=log".to_owned(),
        ];
        // Merged requests may have as many pieces as a host takes in one call, to which the log adds one: the guest would see an error.
        let device = ["-device", "virtio-blk-pci,drive=disk,request-merging=off"].map(str::to_owned);
        nodes.into_iter().flat_map(|node| ["-blockdev".to_owned(), node]).chain(device).collect()
    }
}
