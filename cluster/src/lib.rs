//! Decisions of the cluster.
#![no_std]
#![forbid(unsafe_code)]
