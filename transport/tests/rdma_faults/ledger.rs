//! The books of a test: what was sent, against what became of it.

use std::collections::BTreeMap;
use std::fmt;

/// Each message of one test is in exactly one of these.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) name: &'static str,
    pub(crate) sent: u64,
    /// Arrived once, in the order of its lane, with the body that was sent.
    pub(crate) arrived: u64,
    /// Not known to have arrived when its session ended.
    pub(crate) in_doubt: u64,
    pub(crate) repeated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) damaged: u64,
    /// Why connections were lost, and how often.
    pub(crate) losses: BTreeMap<String, u64>,
    /// Over what sessions went on, one after the other.
    pub(crate) wires: Vec<String>,
    /// Why the session ended, for each end that was told.
    pub(crate) ends: Vec<String>,
}

impl Ledger {
    /// It adds up: each message is in one place, and none of them came wrong.
    pub(crate) fn adds_up(&self) {
        println!("{self}");
        assert_eq!(self.sent, self.arrived + self.in_doubt, "sent, against arrived and in doubt");
        let wrong = (self.repeated, self.out_of_order, self.damaged);
        assert_eq!(wrong, (0, 0, 0), "repeated, out of order, damaged");
    }

    /// It adds up as if nothing had happened.
    pub(crate) fn lost_nothing(&self) {
        self.adds_up();
        assert_eq!(self.in_doubt, 0, "in doubt");
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ledger of {}", self.name)?;
        writeln!(f, "  sent      {} = arrived {} + in doubt {}", self.sent, self.arrived, self.in_doubt)?;
        let Self { repeated, out_of_order, damaged, .. } = self;
        writeln!(f, "  wrong     repeated {repeated}, out of order {out_of_order}, damaged {damaged}")?;
        for (reason, count) in &self.losses {
            writeln!(f, "  lost      {count} x {reason}")?;
        }
        writeln!(f, "  went on   {}", self.wires.join(", "))?;
        writeln!(f, "  ended     {}", self.ends.join(", "))
    }
}
