//! TODO
use super::*;
