//! The QEMU process and what can be done with it: run programs, reboot, cut the power.

mod hardware;

pub(crate) use hardware::MEMORY;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Accel, agent::Agent, monitor::Monitor};
use crate::{
    command::{Argv, last_lines},
    lab::Lab,
    story::Teller,
};

const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// In the directory of a machine that has one.
const SECOND_DISK: &str = "disk2.raw";
/// How long a boot may take on hardware.
const BOOT: Duration = Duration::from_secs(120);
/// How long a shutdown may take on hardware, before the power is cut.
const SHUTDOWN: Duration = Duration::from_secs(36);
/// How long a program may take on hardware.
const PROGRAM: Duration = Duration::from_secs(120);

/// How a program in the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Its exit code.
    pub(crate) code: i64,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// A machine: its disk, its firmware variables, and the QEMU process while it is powered.
#[derive(Debug)]
pub(crate) struct Machine {
    dir: PathBuf,
    /// Where the agent's socket is: a short path, because the kernel allows no more than 108 bytes.
    run: PathBuf,
    /// Where the console's log is kept when the guest did not go down.
    hung: PathBuf,
    tell: Teller,
    accel: Accel,
    secure_boot: bool,
    write_log: bool,
    watchdog: bool,
    child: Option<Child>,
    monitor: Option<Monitor>,
    agent: Option<Agent>,
    token: u64,
    boot_id: String,
}

impl Machine {
    /// A machine with a copy of `disk` and firmware variables of its own, powered off.
    pub(crate) fn new(lab: &Lab, name: &str, disk: &Path, accel: Accel) -> Result<Self> {
        let dir = lab.fresh_subdir(&format!("vm/{name}"))?;
        Argv::new(["cp", "--sparse=always", "--reflink=auto"]).with([disk, &dir.join("disk.raw")]).read()?;
        fs::copy(VARIABLES, dir.join("vars.fd")).with_context(|| format!("copying {VARIABLES} (package ovmf)"))?;
        let run = tempfile::Builder::new().prefix("selkie-vm-").tempdir().context("making a directory for a socket")?.keep();
        Ok(Self::off(dir, run, lab.log(&format!("hung-shutdown-{name}")), Teller::of(name), accel))
    }

    fn off(dir: PathBuf, run: PathBuf, hung: PathBuf, tell: Teller, accel: Accel) -> Self {
        let (secure_boot, watchdog, write_log) = (false, false, false);
        Self {
            dir,
            run,
            hung,
            tell,
            accel,
            secure_boot,
            watchdog,
            write_log,
            child: None,
            monitor: None,
            agent: None,
            token: 0,
            boot_id: String::new(),
        }
    }

    /// The same with firmware that checks signatures once keys are enrolled.
    #[must_use]
    pub(crate) fn with_secure_boot(mut self) -> Self {
        self.secure_boot = true;
        self
    }

    /// The same with a log of all that it writes to its disk: see `replay`. It begins anew when the machine is powered on.
    #[must_use]
    pub(crate) fn with_write_log(mut self) -> Self {
        self.write_log = true;
        self
    }

    /// That log.
    pub(crate) fn write_log(&self) -> PathBuf {
        self.dir.join("writes.log")
    }

    /// The same with a watchdog that resets it. A guest that opens it has to reach it ever again.
    #[must_use]
    pub(crate) fn with_watchdog(mut self) -> Self {
        self.watchdog = true;
        self
    }

    /// The same with a copy of another disk, behind the first.
    pub(crate) fn with_second_disk(self, disk: &Path) -> Result<Self> {
        Argv::new(["cp", "--sparse=always", "--reflink=auto"]).with([disk, &self.dir.join(SECOND_DISK)]).read()?;
        Ok(self)
    }

    /// Powers it on and waits until it runs programs. The result is how long that took.
    pub(crate) fn boot(&mut self) -> Result<Duration> {
        self.power_on()?;
        self.wait()
    }

    /// Powers it on and waits until the console shows `text`, in whatever case, for a boot that is not meant to succeed.
    pub(crate) fn boot_until(&mut self, text: &str) -> Result<()> {
        fs::write(self.serial(), "").context("emptying the console's log")?;
        self.power_on()?;
        let begin = Instant::now();
        while begin.elapsed() < BOOT * self.accel.patience() {
            self.check_alive()?;
            let console = String::from_utf8_lossy(&fs::read(self.serial()).unwrap_or_default()).to_lowercase();
            if console.contains(&text.to_lowercase()) {
                return Ok(());
            }
            sleep(Duration::from_millis(500));
        }
        bail!("booting: the console did not say {text:?}\n{}", self.console())
    }

    /// Its disk; to be changed only while it is powered off.
    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// Ends the QEMU process at once, as a power cut would: what the guest has not written to its disk is lost.
    pub(crate) fn cut_power(&mut self) -> Result<()> {
        (self.agent, self.monitor) = (None, None);
        if let Some(mut child) = self.child.take() {
            child.kill().context("cutting the power")?;
            child.wait().context("cutting the power")?;
        }
        Ok(())
    }

    /// Reboots from inside, and waits until the machine has come up again.
    pub(crate) fn reboot(&mut self) -> Result<Duration> {
        self.go_down()?;
        self.wait()
    }

    /// Reboots from inside, and returns when the guest has gone down. One that hangs in its shutdown loses its power and is started again, which is told:
    /// nothing of selkie has to run there, so what follows must hold all the same.
    pub(crate) fn go_down(&mut self) -> Result<()> {
        let patience = SHUTDOWN * self.accel.patience();
        let monitor = self.monitor.as_mut().context("rebooting: the machine is off")?;
        monitor.forget()?;
        self.spawn(&["systemctl", "reboot"])?;
        let monitor = self.monitor.as_mut().context("rebooting: the machine is off")?;
        if !monitor.wait_for("RESET", patience)? {
            return self.power_cycle("the guest has not gone down");
        }
        self.start_after_reset()
    }

    /// Waits for a sign of life from the firmware after a reset. QEMU's emulation sometimes goes in circles before that: nothing of the guest runs there, so
    /// switching it off and on again hides nothing of it.
    fn start_after_reset(&mut self) -> Result<()> {
        let said = self.console_length();
        let begin = Instant::now();
        while begin.elapsed() < SHUTDOWN * self.accel.patience() {
            self.check_alive()?;
            if self.console_length() > said {
                return Ok(());
            }
            sleep(Duration::from_millis(500));
        }
        self.power_cycle("the firmware has said nothing after a reset")
    }

    /// Cuts the power of a machine that hangs, keeps its console, tells why, and starts it again.
    fn power_cycle(&mut self, why: &str) -> Result<()> {
        fs::copy(self.serial(), &self.hung).with_context(|| format!("keeping the console's log as {}", self.hung.display()))?;
        let (seconds, log) = ((SHUTDOWN * self.accel.patience()).as_secs(), self.hung.display());
        self.tell.say(format!("{why} for {seconds} s: the power is cut, and the machine started again (its console until then: {log})"));
        self.cut_power()?;
        self.power_on()
    }

    fn console_length(&self) -> u64 {
        fs::metadata(self.serial()).map_or(0, |meta| meta.len())
    }

    /// Waits until the watchdog resets the machine; whether it did in time.
    pub(crate) fn is_reset_by_watchdog(&mut self) -> Result<bool> {
        let monitor = self.monitor.as_mut().context("waiting for the watchdog: the machine is off")?;
        let reset = monitor.wait_for("WATCHDOG", BOOT * self.accel.patience())?;
        if reset {
            self.start_after_reset()?;
        }
        Ok(reset)
    }

    /// Waits for another boot than the one seen last, in which `script` says `expected`; what runs in between restarts by itself. The result is how long
    /// that took.
    pub(crate) fn wait_for_another_boot(&mut self, script: &str, expected: &str) -> Result<Duration> {
        let begin = Instant::now();
        let script = format!("cat /proc/sys/kernel/random/boot_id\n{script}");
        while begin.elapsed() < 3 * BOOT * self.accel.patience() {
            self.check_alive()?;
            let said = self.ask(&script).unwrap_or_default();
            if let Some((boot_id, said)) = said.split_once('\n').filter(|(boot_id, _)| *boot_id != self.boot_id)
                && said == expected
            {
                self.boot_id = boot_id.to_owned();
                return Ok(begin.elapsed());
            }
            self.agent = None;
            sleep(Duration::from_secs(1));
        }
        bail!("booting: {script:?} did not say {expected:?} in {} s\n{}", begin.elapsed().as_secs(), self.console())
    }

    /// Runs a program in the guest to its end.
    pub(crate) fn run(&mut self, argv: &[&str]) -> Result<Outcome> {
        self.run_within(argv, PROGRAM * self.accel.patience())
    }

    /// The same, with a limit of one's own. What has not ended by then runs on.
    pub(crate) fn run_within(&mut self, argv: &[&str], limit: Duration) -> Result<Outcome> {
        let pid = self.spawn(argv)?;
        let begin = Instant::now();
        // The guest's journal has a line for each question: who waits for long asks less and less often.
        let mut pause = Duration::from_millis(50);
        loop {
            let agent = self.agent.as_mut().context("running a program: the machine is off")?;
            if let Some((code, stdout, stderr)) = agent.exec_status(pid).with_context(|| format!("running {argv:?} in the guest"))? {
                return Ok(Outcome { code, stdout, stderr });
            }
            if begin.elapsed() > limit {
                bail!("running {argv:?} in the guest: it has not ended in {} s\n{}", limit.as_secs(), self.console());
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Starts a program in the guest and leaves it running.
    pub(crate) fn spawn(&mut self, argv: &[&str]) -> Result<u64> {
        let agent = self.agent.as_mut().context("running a program: the machine is off")?;
        agent.exec(argv).with_context(|| format!("starting {argv:?} in the guest"))
    }

    /// Runs a program that must succeed; the result is its standard output.
    pub(crate) fn read(&mut self, argv: &[&str]) -> Result<String> {
        let outcome = self.run(argv)?;
        if outcome.code != 0 {
            bail!("running {argv:?} in the guest: exit code {}\n{}{}", outcome.code, outcome.stdout, outcome.stderr);
        }
        Ok(outcome.stdout)
    }

    /// Runs a shell script that must succeed; the result is its standard output, without the last newline.
    pub(crate) fn shell(&mut self, script: &str) -> Result<String> {
        Ok(self.read(&["/bin/sh", "-euc", script])?.trim_end().to_owned())
    }

    /// Waits until the boot has come to its end: the agent answers long before that, and what the boot starts may hold selkie's lock.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.shell("systemctl is-system-running --wait || true").map(drop)
    }

    /// Runs a program that must succeed and print one JSON value.
    pub(crate) fn json(&mut self, argv: &[&str]) -> Result<Value> {
        let text = self.read(argv)?;
        serde_json::from_str(&text).with_context(|| format!("reading the output of {argv:?} in the guest: {text}"))
    }

    /// The last lines of the serial console, for error messages.
    pub(crate) fn console(&self) -> String {
        let path = self.serial();
        let bytes = fs::read(&path).unwrap_or_default();
        let text: String = String::from_utf8_lossy(&bytes).chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        format!("the console's last lines ({}):\n{}", path.display(), last_lines(&text, 40))
    }

    fn power_on(&mut self) -> Result<()> {
        let monitor = self.run.join("monitor.sock");
        for socket in [&self.socket(), &monitor] {
            let _ = fs::remove_file(socket);
        }
        let argv = self.argv().dying_with_us();
        let log = fs::File::create(self.dir.join("qemu.log")).context("creating QEMU's log")?;
        if self.write_log {
            fs::File::create(self.write_log()).context("creating the log of writes")?;
        }
        self.child = Some(argv.command().stderr(log).spawn().with_context(|| format!("starting {argv}"))?);
        match Monitor::connect(&monitor) {
            Ok(connected) => self.monitor = Some(connected),
            // QEMU says better why it has ended.
            Err(error) => self.check_alive().and(Err(error))?,
        }
        Ok(())
    }

    /// Waits for the agent of a boot that is not the one seen last.
    fn wait(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        self.agent = None;
        while begin.elapsed() < BOOT * self.accel.patience() {
            self.check_alive()?;
            if let Some(boot_id) = self.try_agent().filter(|id| *id != self.boot_id) {
                self.boot_id = boot_id;
                return Ok(begin.elapsed());
            }
            self.agent = None;
            sleep(Duration::from_millis(500));
        }
        let seconds = begin.elapsed().as_secs();
        bail!("booting: no answer from the guest after {seconds} s (expected one from qemu-guest-agent in its image)\n{}", self.console())
    }

    /// The id of the running boot, when the agent answers; it stays connected.
    fn try_agent(&mut self) -> Option<String> {
        self.ask("cat /proc/sys/kernel/random/boot_id")
    }

    /// What a short script says, when the agent answers; it stays connected.
    fn ask(&mut self, script: &str) -> Option<String> {
        self.token += 1;
        self.agent = Some(Agent::connect(&self.socket(), self.token, Duration::from_secs(3)).ok()?);
        let said = self.shell(script).ok()?;
        self.agent.as_ref()?.set_patience(Duration::from_secs(120)).ok()?;
        Some(said)
    }

    fn check_alive(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("waiting for a machine that is off")?;
        if let Some(status) = child.try_wait().context("looking at QEMU")? {
            let log = fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
            bail!("booting: QEMU ended with {status}\n{log}{}", self.console());
        }
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    fn serial(&self) -> PathBuf {
        self.dir.join("serial.log")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.cut_power();
        let _ = fs::remove_dir_all(&self.run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_disk_one_network_card_one_channel() {
        let (dir, run) = (PathBuf::from("/vm"), PathBuf::from("/run/vm"));
        let machine = Machine::off(dir, run, PathBuf::from("/logs/hung"), Teller::default(), Accel::Tcg);
        let expected = "qemu-system-x86_64 -machine q35 -smp 1 -m 1536 -display none -nodefaults -accel tcg,thread=multi -cpu max,-cx16,-erms,-fsrm,-avx,-avx2,-la57,-smap,-pku \
             -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd -drive if=pflash,format=raw,unit=1,file=/vm/vars.fd \
             -drive if=virtio,format=raw,discard=unmap,file=/vm/disk.raw -chardev file,id=console,append=on,path=/vm/serial.log \
             -serial chardev:console -device virtio-serial-pci -chardev socket,id=agent,server=on,wait=off,path=/run/vm/agent.sock \
             -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0 \
             -chardev socket,id=monitor,server=on,wait=off,path=/run/vm/monitor.sock -mon chardev=monitor,mode=control -device virtio-rng-pci -netdev user,id=net -device virtio-net-pci,netdev=net,romfile=";
        assert_eq!(machine.argv().to_string(), expected);
        let secure = machine.with_secure_boot().with_watchdog().with_write_log().argv().to_string();
        for words in [
            " -device i6300esb -action watchdog=reset",
            "-machine q35,smm=on ",
            " -global driver=cfi.pflash01,property=secure,value=on ",
            "file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd ",
            " -blockdev driver=file,node-name=medium,cache.no-flush=on,filename=/vm/disk.raw \
             -blockdev driver=file,node-name=log,cache.no-flush=on,filename=/vm/writes.log -blockdev driver=raw,node-name=raw,file=medium \
             -blockdev driver=blklogwrites,node-name=disk,file=raw,log=log -device virtio-blk-pci,drive=disk,request-merging=off ",
        ] {
            assert!(secure.contains(words), "{secure}");
        }
    }
}
