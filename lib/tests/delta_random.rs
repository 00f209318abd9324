//! `delta` between random stacks of layers: what it makes is proven by itself.

mod delta_common;
mod store_common;

use delta_common::Desk;
use selkie::error::{Failure, FailureKind};
use store_common::random::Random;
use store_common::with_base;

#[test]
fn random_images_give_deltas_that_make_them() {
    let (mut random, mut good) = (Random(0x0dd_1ab5), 0);
    let mut desk = Desk::empty();
    for round in 0..16 {
        let (from, to) = (random.stack(), random.stack());
        let (old, new) = (format!("a{round}"), format!("b{round}"));
        desk.image(&old, with_base(from.clone()));
        desk.image(&new, with_base(to.clone()));
        let output = format!("oci-archive:{}", desk.path(&new).display());
        // It applies what it has written to the root of the one image, and compares with the layers of the other.
        match desk.delta(&desk.options(&desk.tag(&old), &desk.tag(&new), &output)) {
            Ok(report) => {
                let [copied, patched, brought] = [report.origins.copied, report.origins.patched, report.origins.new];

                assert!(copied + patched + brought > 0, "round {round}: {report:?}");
                good += 1;
            }
            Err(error) => {
                let failure = Failure::find(&error).unwrap_or_else(|| panic!("round {round}: {error:#}: {from:#?} {to:#?}"));
                assert_eq!(failure.kind, FailureKind::Unsuitable, "round {round}: {failure}: {from:#?} {to:#?}");
            }
        }
    }
    assert!(good > 5, "{good} pairs make a delta: the generator is too wild");
}
