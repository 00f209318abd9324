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

/// What is on record about this root since it was last good, or activated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Past {
    /// How often selkie has restarted the machine because of it.
    pub reboots: u32,
    /// Whether it had no tries left then: the boot loader has nothing better to go to, or somebody chose this root in its menu.
    pub out_of_tries: bool,
}

/// Decides, and says why. `past` is `None` where the record cannot be read, and so could say anything.
///
/// systemd-boot goes on counting up the tries that were made when none are left, so their number bounds nothing by itself.
pub fn decide(verdict: Verdict, standing: Standing, past: Option<Past>) -> (Action, &'static str) {
    if verdict == Verdict::Good {
        return (Action::GoOn, "all required checks passed");
    }
    let Some(past) = past else {
        return (Action::StayUp, "how often the machine was restarted for it cannot be read");
    };
    match standing {
        Standing::Unknown => (Action::StayUp, "the boot entry of this root cannot be seen, so nobody counts its tries"),
        _ if past.reboots >= standing.reboots() => (Action::StayUp, "the machine was restarted for it before, and that did not help"),
        Standing::Proven => (Action::Reboot, "this root was good before: one restart may help"),
        Standing::OnTrial(tries) if tries.is_bad() && past.out_of_tries => {
            (Action::StayUp, "no tries were left before, and the boot loader came back to this root")
        }
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

    fn past(reboots: u32) -> Option<Past> {
        Some(Past { reboots, out_of_tries: false })
    }

    #[test]
    fn what_follows() {
        use Action::{GoOn, Reboot, StayUp};
        use Verdict::{Bad, Good};
        let out_of_tries = |reboots| Some(Past { reboots, out_of_tries: true });
        for (verdict, standing, past, action) in [
            (Good, trial(2, 1), past(0), GoOn),
            (Good, Standing::Proven, past(1), GoOn),
            (Good, Standing::Unknown, None, GoOn),
            (Bad, trial(2, 1), past(0), Reboot),
            (Bad, trial(1, 2), past(1), Reboot),
            (Bad, trial(0, 3), past(2), Reboot),
            (Bad, trial(0, 4), out_of_tries(3), StayUp),
            (Bad, trial(0, 9), out_of_tries(1), StayUp),
            // A boot loader that does not count.
            (Bad, trial(3, 0), past(2), Reboot),
            (Bad, trial(3, 0), past(3), StayUp),
            (Bad, trial(u32::MAX, u32::MAX), past(5), Reboot),
            // Chosen in the menu after it was given up, having panicked before.
            (Bad, trial(0, 3), past(0), Reboot),
            (Bad, trial(0, 4), out_of_tries(0), StayUp),
            (Bad, Standing::Proven, past(0), Reboot),
            (Bad, Standing::Proven, past(1), StayUp),
            (Bad, Standing::Proven, out_of_tries(0), Reboot),
            (Bad, Standing::Unknown, past(0), StayUp),
            (Bad, trial(2, 1), None, StayUp),
            (Bad, Standing::Proven, None, StayUp),
        ] {
            assert_eq!(decide(verdict, standing, past).0, action, "{verdict:?} {standing:?} {past:?}");
        }
    }

    /// Restarts until it stays up, with a boot loader that has nothing else to go to and counts as `count` says.
    fn restarts(mut standing: Standing, count: impl Fn(Tries) -> Tries) -> u32 {
        let mut past = Past::default();
        while decide(Verdict::Bad, standing, Some(past)).0 == Action::Reboot {
            past = Past { reboots: past.reboots + 1, out_of_tries: matches!(standing, Standing::OnTrial(tries) if tries.is_bad()) };
            assert!(past.reboots < 10, "in circles");
            if let Standing::OnTrial(tries) = standing {
                standing = Standing::OnTrial(count(tries));
            }
        }
        past.reboots
    }

    #[test]
    fn restarts_end_whatever_the_counter_does() {
        let systemd_boot = |tries: Tries| Tries { left: tries.left.saturating_sub(1), done: tries.done + 1 };
        for (standing, counted, uncounted) in [
            (Standing::Proven, 1, 1),
            (Standing::Unknown, 0, 0),
            (trial(2, 1), 3, 3),
            (trial(0, 1), 1, 1),
            (trial(0, 3), 1, 1),
            (trial(0, 0), 0, 0),
        ] {
            assert_eq!(restarts(standing, systemd_boot), counted, "{standing:?}");
            assert_eq!(restarts(standing, |tries| tries), uncounted, "{standing:?}, and nobody counts");
        }
    }
}
