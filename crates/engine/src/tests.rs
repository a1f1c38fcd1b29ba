mod answers;
pub(crate) mod fake;
mod scheduling;
mod threads;
mod validation;
