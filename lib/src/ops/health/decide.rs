//! What follows from how a boot went. Pure. Nothing here restarts a machine without end: a root that has proven itself gets one restart, and one on
//! trial as many as it has tries.

use serde::Serialize;

use crate::boot::{BootEntry, Tries};

/// Whether the boot was a good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// No required check failed.
    Good,
    /// At least one did.
    Bad,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing: the boot goes on, and systemd-bless-boot takes the counter away.
    GoOn,
    /// Restart: the boot loader tries again, or goes back to another root.
    Reboot,
    /// Stay up as it is, for somebody to look at.
    StayUp,
}

/// What the boot loader thinks of the root that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has proven itself, or is not counted.
    Proven,
    /// It is on trial.
    OnTrial(Tries),
    /// Its entry cannot be seen.
    Unknown,
}

impl Standing {
    /// The standing of a root with this entry.
    pub fn of(entry: Option<&BootEntry>) -> Self {
        match entry.map(|entry| entry.tries) {
            None => Self::Unknown,
            Some(None) => Self::Proven,
            Some(Some(tries)) => Self::OnTrial(tries),
        }
    }

    /// How often the machine may be restarted because of it.
    fn reboots(self) -> u32 {
        match self {
            Self::Proven => 1,
            Self::OnTrial(tries) => tries.left.saturating_add(tries.done),
            Self::Unknown => 0,
        }
    }
}

/// Decides, and says why. `reboots` is how often selkie has restarted the machine because of this root since it was last good; `None` where that
/// cannot be read, and so could be any number.
pub fn decide(verdict: Verdict, standing: Standing, reboots: Option<u32>) -> (Action, &'static str) {
    if verdict == Verdict::Good {
        return (Action::GoOn, "all required checks passed");
    }
    let Some(reboots) = reboots else {
        return (Action::StayUp, "how often the machine was restarted for it cannot be read");
    };
    match standing {
        Standing::Unknown => (Action::StayUp, "the boot entry of this root cannot be seen, so nobody counts its tries"),
        _ if reboots >= standing.reboots() => (Action::StayUp, "the machine was restarted for it before, and that did not help"),
        Standing::Proven => (Action::Reboot, "this root was good before: one restart may help"),
        Standing::OnTrial(tries) if tries.is_bad() => (Action::Reboot, "no tries are left: the boot loader goes back to another root"),
        Standing::OnTrial(_) => (Action::Reboot, "tries are left: the boot loader tries again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(left: u32, done: u32) -> Standing {
        Standing::OnTrial(Tries { left, done })
    }

    #[test]
    fn what_follows() {
        use Action::{GoOn, Reboot, StayUp};
        use Verdict::{Bad, Good};
        for (verdict, standing, reboots, action) in [
            (Good, trial(2, 1), Some(0), GoOn),
            (Good, Standing::Proven, Some(1), GoOn),
            (Good, Standing::Unknown, None, GoOn),
            (Bad, trial(2, 1), Some(0), Reboot),
            (Bad, trial(1, 2), Some(1), Reboot),
            (Bad, trial(0, 3), Some(2), Reboot),
            (Bad, trial(0, 3), Some(3), StayUp),
            // A boot loader that does not count.
            (Bad, trial(3, 0), Some(2), Reboot),
            (Bad, trial(3, 0), Some(3), StayUp),
            (Bad, trial(u32::MAX, u32::MAX), Some(5), Reboot),
            // Chosen in the menu after it was given up, having panicked before.
            (Bad, trial(0, 3), Some(0), Reboot),
            (Bad, Standing::Proven, Some(0), Reboot),
            (Bad, Standing::Proven, Some(1), StayUp),
            (Bad, Standing::Unknown, Some(0), StayUp),
            (Bad, trial(2, 1), None, StayUp),
            (Bad, Standing::Proven, None, StayUp),
        ] {
            assert_eq!(decide(verdict, standing, reboots).0, action, "{verdict:?} {standing:?} {reboots:?}");
        }
    }

    #[test]
    fn restarts_end_whatever_the_counter_does() {
        for standing in [Standing::Proven, Standing::Unknown, trial(3, 0), trial(0, 3), trial(0, 0)] {
            let mut reboots = 0;
            while decide(Verdict::Bad, standing, Some(reboots)).0 == Action::Reboot {
                reboots += 1;
                assert!(reboots <= 3, "{standing:?}");
            }
        }
    }
}
