//! Bodies offered for one-sided reads, between two ends of a session in virtual time.
//!
//! `rig` is the two ends, the channels between them, and a wire's part of it: what is exposed, and reads that are done
//! in any order, fail, bring too little, or never end. A read whose exposure is withdrawn while it is in flight fails,
//! as it would on a device. The others are named by what they prove.

mod bounds;
mod hostile;
mod losses;
mod order;
mod rig;
