//! Trees of processes that stay up: so far what is decided, and not yet what does it.

#![cfg_attr(not(test), expect(dead_code, reason = "nothing drives it yet"))]

mod strategy;
