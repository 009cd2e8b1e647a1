//! The running node and all that the control thread does for it.
