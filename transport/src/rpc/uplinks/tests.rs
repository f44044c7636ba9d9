//! The policy in virtual time.
