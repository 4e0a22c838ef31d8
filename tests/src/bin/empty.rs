//! The program that does nothing: what starting it costs is the least that starting anything can cost.
#![forbid(unsafe_code)]

fn main() {}
