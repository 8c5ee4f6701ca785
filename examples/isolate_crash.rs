//! A library that crashes cannot take the program down.
//!
//! `cargo run --example isolate_crash`

#![allow(unsafe_code, reason = "somebody else's library")]

use pkit::TaskError;

/// Stands for a decoder in C that trusts its input.
fn decode(bytes: Vec<u8>) -> u64 {
    match bytes.as_slice() {
        [] => {
            let nowhere = std::ptr::with_exposed_provenance::<u64>(8);
            // SAFETY: none; that is the point.
            unsafe { nowhere.read_volatile() }
        }
        [0, ..] => panic!("a picture does not begin with 0"),
        [1, ..] => std::process::exit(3),
        bytes => bytes.iter().map(|byte| u64::from(*byte)).sum(),
    }
}

fn main() -> Result<(), TaskError> {
    for picture in [vec![2, 3, 4], vec![], vec![0], vec![1]] {
        let shown = format!("{picture:?}");
        match pkit::run(decode, picture) {
            Ok(value) => println!("{shown}: {value}"),
            Err(TaskError::Crashed(exit)) => println!("{shown}: its process is gone, not this one: {exit}"),
            Err(TaskError::Panicked { message, location, .. }) => {
                println!("{shown}: panicked: {message}, at {}", location.unwrap_or_default());
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}
