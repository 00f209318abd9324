//! In what order findings are repaired: what others need comes first. Pure.

use super::finding::{Finding, Kind, Remedy};

/// What to repair, in order. Findings that follow others, and those that cannot be repaired, are in neither list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan<'f> {
    /// In the repository.
    pub(super) repository: Vec<&'f Finding>,
    /// Of the machine, for which the repository must be well.
    pub(super) machine: Vec<&'f Finding>,
}

/// Plans the repair.
pub(super) fn plan(findings: &[Finding]) -> Plan<'_> {
    let todo = findings.iter().filter(|finding| !matches!(finding.remedy, Remedy::Follows | Remedy::None));
    let (mut repository, mut machine): (Vec<_>, Vec<_>) = todo.partition(|finding| of_repository(finding.kind));
    repository.sort_by_key(|finding| rank(finding));
    machine.sort_by_key(|finding| rank(finding));
    Plan { repository, machine }
}

fn of_repository(kind: Kind) -> bool {
    !matches!(kind, Kind::Deployment | Kind::Entry | Kind::Kernel | Kind::Counter)
}

/// Nothing is removed before all that is needed is there again; an entry comes after what it names.
fn rank(finding: &Finding) -> (bool, Kind) {
    (finding.remedy == Remedy::Remove, finding.kind)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Damage;
    use super::*;

    fn finding(kind: Kind, remedy: Remedy) -> Finding {
        Finding::new(kind, format!("{kind:?}"), Damage::Missing, "it is missing", remedy)
    }

    #[test]
    fn what_others_need_comes_first_and_removal_last() {
        let findings = [
            finding(Kind::Entry, Remedy::Rebuild),
            finding(Kind::Leftover, Remedy::Remove),
            finding(Kind::Tag, Remedy::Rebuild),
            finding(Kind::Image, Remedy::Follows),
            finding(Kind::Counter, Remedy::None),
            finding(Kind::Deployment, Remedy::Rebuild),
            finding(Kind::Entry, Remedy::Remove),
            finding(Kind::Stream, Remedy::Fetch),
            finding(Kind::Kernel, Remedy::Rebuild),
            finding(Kind::Object, Remedy::Fetch),
            finding(Kind::Repository, Remedy::Rebuild),
        ];
        let plan = plan(&findings);
        let order = |list: &[&Finding]| list.iter().map(|f| (f.kind, f.remedy)).collect::<Vec<_>>();
        assert_eq!(
            order(&plan.repository),
            [
                (Kind::Repository, Remedy::Rebuild),
                (Kind::Object, Remedy::Fetch),
                (Kind::Stream, Remedy::Fetch),
                (Kind::Tag, Remedy::Rebuild),
                (Kind::Leftover, Remedy::Remove),
            ]
        );
        assert_eq!(
            order(&plan.machine),
            [
                (Kind::Deployment, Remedy::Rebuild),
                (Kind::Kernel, Remedy::Rebuild),
                (Kind::Entry, Remedy::Rebuild),
                (Kind::Entry, Remedy::Remove),
            ]
        );
    }
}
