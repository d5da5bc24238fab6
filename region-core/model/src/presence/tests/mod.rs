//! Presence of several regions over links that lose, double, delay and cut, by a clock of the test.

mod properties;
mod stories;
mod world;
