//! `rechunk` on random stacks of layers: what they give stays the same, whatever it is.

mod rechunk_common;
mod store_common;

use rechunk_common::{Desk, listed};
use selkie::error::{Failure, FailureKind};
use selkie::ops::rechunk::Options;
use store_common::random::Random;
use store_common::with_base;

#[test]
fn random_layers_give_the_same_root() {
    let (mut random, mut good) = (Random(0x0dd_1ab5), 0);
    let mut desk = Desk::new();
    for round in 0..60 {
        let (stack, tag) = (random.stack(), format!("r{round}"));
        desk.image(&tag, with_base(stack.clone()));
        // It compares image and boot image by itself.
        if let Err(error) = desk.rechunk(&Options { layers: 16, ..desk.options(&tag) }) {
            let failure = Failure::find(&error).unwrap_or_else(|| panic!("round {round}: {error:#}: {stack:#?}"));
            assert!(failure.kind == FailureKind::Unsuitable, "round {round}: {failure}: {stack:#?}");
            continue;
        }
        let (before, after) = (listed(&desk.tree(&desk.original(&tag))), listed(&desk.tree(&desk.new_reference(&tag))));
        assert_eq!(after, before, "round {round}: {stack:#?}");
        good += 1;
    }
    assert!(good > 20, "{good} stacks make a tree: the generator is too wild");
}
