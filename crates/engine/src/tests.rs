mod answers;
pub(crate) mod fake;
mod scheduling;
mod sharing;
mod spilling;
mod threads;
mod turns;
mod validation;
