//! SHA-256 of messages that are in memory, alone and side by side.
//!
//! Processors have their SHA-256 instructions in a pipeline, which one message after the other leaves half empty.

use std::cmp::Reverse;

use openssl::sha::Sha256;
use tape_sha256::{hash_many, lane_width};

/// SHA-256 of a message. OpenSSL's own function for this looks the algorithm up by its name each time, which takes longer than to hash a small file.
pub(super) fn sha256(message: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(message);
    hasher.finish()
}

/// SHA-256 of each message, in their order.
///
/// Messages that are hashed side by side take as long as the longest of them, so those of about one length are, and one that is much longer than all that are left is hashed alone.
pub(super) fn sha256_each(messages: &[&[u8]]) -> Vec<[u8; 32]> {
    let mut digests = vec![[0; 32]; messages.len()];
    let length = |message: &usize| messages[*message].len();
    let mut rest: Vec<usize> = (0..messages.len()).collect();
    rest.sort_by_key(|message| Reverse(length(message)));
    let (mut rest, mut together) = (&rest[..], Vec::with_capacity(messages.len()));
    while let Some(longest) = rest.first() {
        let (group, later) = rest.split_at(rest.len().min(lane_width()));
        let all: usize = group.iter().map(length).sum();
        if group.len() > 1 && 2 * all >= length(longest) * group.len() {
            together.extend_from_slice(group);
            rest = later;
        } else {
            digests[*longest] = sha256(messages[*longest]);
            rest = &rest[1..];
        }
    }
    let grouped: Vec<&[u8]> = together.iter().map(|message| messages[*message]).collect();
    let mut hashed = vec![[0; 32]; grouped.len()];
    hash_many(&grouped, &mut hashed);
    together.into_iter().zip(hashed).for_each(|(message, digest)| digests[message] = digest);
    digests
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever lengths they have, and however many there are, each has the digest that it has alone.
    #[test]
    fn side_by_side_messages_have_the_digests_that_they_have_alone() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(n) / 7) as u8).collect();
        let lengths = [0, 1, 55, 56, 63, 64, 65, 119, 120, 4095, 4096, 4097, 100_000, 300_000];
        let mut state = 7_u64;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % limit
        };
        for count in (0..40).chain([64, 100, 256]) {
            let of_any_length: Vec<&[u8]> = (0..count).map(|_| &bytes[..lengths[below(lengths.len())]]).collect();
            let of_one_length: Vec<&[u8]> = (0..count).map(|number| &bytes[number..number + 4096]).collect();
            for messages in [of_any_length, of_one_length] {
                let expected: Vec<[u8; 32]> = messages.iter().map(|message| openssl::sha::sha256(message)).collect();
                assert_eq!(sha256_each(&messages), expected, "{count} messages");
            }
        }
    }
}
