//! Whole connections, in memory: as encoders and players open them, as
//! attackers do, between our two ends and against `rml_rtmp`'s sessions.

mod cut_short;
mod encoders;
mod hostile;
mod independent;
mod peer;
mod players;
mod times;
mod two_ends;
