//! How the C library's allocator deals with memory that was freed.

/// Lets the allocator give memory back instead of keeping it for threads that are gone: with its defaults, a pull of 36,000 entries keeps half as much
/// again as it needs. For the whole process, so this is the program's to decide; call it before any thread is started. Does nothing with another
/// C library than glibc.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    gnu::give_back();
}

/// Gives back what is free now, between two pieces of work that need much memory: what the first one has freed lies between what stays, and the second one
/// would take new memory beside it. Does nothing with another C library than glibc.
pub fn give_back_now() {
    #[cfg(target_env = "gnu")]
    gnu::give_back_now();
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate wraps mallopt and malloc_trim safely; they take numbers, and refuse those that they do not know")]
mod gnu {
    use std::ffi::c_int;

    /// From `malloc.h`.
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_MMAP_THRESHOLD: c_int = -3;
    const M_ARENA_MAX: c_int = -8;
    /// Each thread prefers an arena of its own, which is never empty enough to be given back.
    const ARENAS: c_int = 2;
    /// In bytes. Larger blocks are mapped, and unmapped when they are freed. By default this grows with every such block, and then arenas keep those, too. The
    /// buffers between threads are below it: they come and go, and each mapping costs the kernel as many page faults as it has pages.
    const LARGE: c_int = 512 << 10;

    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
        fn malloc_trim(pad: usize) -> c_int;
    }

    pub(super) fn give_back() {
        for (parameter, value) in [(M_ARENA_MAX, ARENAS), (M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, LARGE)] {
            // A refusal costs memory and nothing else.
            let _ = unsafe { mallopt(parameter, value) };
        }
    }

    pub(super) fn give_back_now() {
        // Whether there was something is no matter.
        let _ = unsafe { malloc_trim(0) };
    }
}
