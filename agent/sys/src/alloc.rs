//! An allocator that can be sealed: after [`seal`], asking for memory is a bug that ends the process with a message.
//!
//! For PID 1's story builds, which prove that its loop needs no memory. Use as `#[global_allocator]`; forwards to the system's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static SEALED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The allocator.
#[derive(Debug)]
pub struct Sealable;

/// From now on every allocation aborts. Freeing stays allowed.
pub fn seal() {
    SEALED.store(true, Ordering::SeqCst);
}

/// Allocations so far.
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

// SAFETY: every method forwards its arguments unchanged to the system allocator, whose contract is the same.
unsafe impl GlobalAlloc for Sealable {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller upholds GlobalAlloc's contract, which is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller upholds GlobalAlloc's contract, which is System's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        // SAFETY: the caller upholds GlobalAlloc's contract, which is System's.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds GlobalAlloc's contract, which is System's.
        unsafe { System.dealloc(at, layout) }
    }
}

fn check(size: usize) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    if !SEALED.load(Ordering::Relaxed) {
        return;
    }
    // Unsealed first: the message and the abort must not come back here.
    SEALED.store(false, Ordering::SeqCst);
    let mut text = *b"kedge-init: allocation of         bytes after boot\n";
    let mut rest = size;
    for place in text[26..33].iter_mut().rev() {
        // A remainder of 10 always fits.
        *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for path in [c"/dev/console", c"/dev/kmsg"] {
        // SAFETY: `path` is NUL-terminated; pointer and length are those of a live array; a failed open makes write fail.
        unsafe {
            let fd = libc::open(
                path.as_ptr(),
                libc::O_WRONLY | libc::O_NOCTTY | libc::O_CLOEXEC,
            );
            libc::write(fd, text.as_ptr().cast(), text.len());
            libc::close(fd);
        }
    }
    std::process::abort();
}
