//! The only wiring: starts every subsystem in order, and ends them in reverse.
