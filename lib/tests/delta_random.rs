//! `delta` between random stacks of layers: what it makes is proven by itself, and a host makes the same image of it.

mod delta_common;
mod store_common;

use delta_common::Desk;
use delta_common::partial_common::Machine;
use selkie::error::{Failure, FailureKind};
use selkie::ops::pull::Way;
use store_common::random::Random;
use store_common::with_base;

#[test]
fn random_images_give_deltas_that_make_them() {
    let (mut random, mut good, mut by_delta) = (Random(0x0dd_1ab5), 0, 0);
    for round in 0..16 {
        let (from, to) = (random.stack(), random.stack());
        let mut desk = Desk::empty();
        desk.image("old", with_base(from.clone()));
        desk.image("new", with_base(to.clone()));
        // It applies what it has written to the root of the one image, and compares with the layers of the other.
        match desk.delta(&desk.options(&desk.tag("old"), &desk.tag("new"), &desk.layout.reference(None))) {
            Ok(report) => {
                assert!(!report.layers.is_empty() && report.size > 0, "round {round}: {report:?}");
                good += 1;
            }
            Err(error) => {
                let failure = Failure::find(&error).unwrap_or_else(|| panic!("round {round}: {error:#}: {from:#?} {to:#?}"));
                // Between images of the same layers there is nothing to tell; others may be none that anybody can boot.
                let same = failure.message.contains("all layers of");
                let expected = if same { FailureKind::Usage } else { FailureKind::Unsuitable };
                assert_eq!(failure.kind, expected, "round {round}: {failure}: {from:#?} {to:#?}");
                continue;
            }
        }
        // Not every image that is made can also be stored.
        let Ok(whole) = Machine::new().try_pull(&desk.tag("new")) else { continue };
        let machine = Machine::new();
        machine.pull(&desk.tag("old"));
        let found = machine.pull(&desk.tag("new"));
        assert_eq!((&found.image, &found.boot_image), (&whole.image, &whole.boot_image), "round {round}: {from:#?} {to:#?}");
        assert!(found.fetched.iter().all(|layer| layer.reason.iter().all(|reason| !reason.contains("by a delta"))), "{found:?}");
        by_delta += found.fetched.iter().filter(|layer| layer.way == Way::Delta).count();
    }
    assert!(good > 5, "{good} pairs make a delta: the generator is too wild");
    // Most are so small that nothing is less.
    assert!(by_delta > 0);
}
