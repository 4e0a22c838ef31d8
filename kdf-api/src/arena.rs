//! One small piece of memory for all keys and shares: locked into RAM, kept out of core dumps and forked children.
//!
//! Locking all of a process's memory would make `malloc` fail under the usual limit of 8 MiB (`RLIMIT_MEMLOCK`), so only
//! what holds keys is locked. Slots are handed out as `&'static mut`, so the arena needs no unsafe code of its own.

use std::sync::{Mutex, OnceLock, PoisonError};

use zeroize::Zeroize;

use crate::hardening;

/// A slot's size in bytes: room for a share (33 bytes) or a double key (64).
pub(crate) const SLOT: usize = 64;
/// 16 KiB in all: the lowest `RLIMIT_MEMLOCK` still met in the field is 64 KiB.
const SLOTS: usize = 256;
/// Alignment of what is locked: a page, or where its size depends on the kernel, what a page divides.
const ALIGN: usize = if cfg!(target_arch = "x86_64") {
    4 * 1024
} else {
    64 * 1024
};

pub(crate) type Slot = &'static mut [u8; SLOT];

struct Arena {
    free: Mutex<Vec<Slot>>,
    locked: bool,
}

fn arena() -> &'static Arena {
    static ARENA: OnceLock<Arena> = OnceLock::new();
    ARENA.get_or_init(|| {
        let size = SLOT * SLOTS;
        // Whole pages: what else lies on them would be locked too, and missing in forked children.
        let leaked: &'static mut [u8] = vec![0; size + 2 * ALIGN].leak();
        let start = leaked.as_ptr().align_offset(ALIGN).min(ALIGN);
        let (_, rest) = leaked.split_at_mut(start);
        let (pages, _) = rest.split_at_mut(size);
        let locked = hardening::lock_memory(pages);
        let (slots, _) = pages.as_chunks_mut::<SLOT>();
        Arena {
            free: Mutex::new(slots.iter_mut().collect()),
            locked,
        }
    })
}

/// A zeroed slot, or none when all are in use: the caller then takes the heap.
pub(crate) fn take() -> Option<Slot> {
    arena().free.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Wipes a slot and takes it back.
pub(crate) fn give_back(slot: Slot) {
    slot.zeroize();
    arena()
        .free
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(slot);
}

/// Whether the kernel agreed to keep the arena in RAM. It refuses under a `RLIMIT_MEMLOCK` below 16 KiB.
pub fn is_locked() -> bool {
    arena().locked
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_slot_comes_back_wiped_and_the_arena_is_locked() {
        let slot = take().unwrap();
        slot.fill(0xa5);
        let address = std::ptr::from_ref(slot).addr();
        give_back(slot);
        // The free list is last in, first out; other tests of this process may interleave, so look for the address.
        let mut taken = Vec::new();
        let found = loop {
            let slot = take().unwrap();
            if std::ptr::from_ref(slot).addr() == address {
                assert!(slot.iter().all(|byte| *byte == 0));
                break slot;
            }
            taken.push(slot);
        };
        give_back(found);
        taken.into_iter().for_each(give_back);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = status.lines().find(|line| line.starts_with("VmLck")).unwrap();
        assert_eq!(is_locked(), !locked.ends_with(" 0 kB"), "{locked}");
    }
}
