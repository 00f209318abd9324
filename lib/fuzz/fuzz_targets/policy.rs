#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| selkie::fuzz::run("policy", bytes));
