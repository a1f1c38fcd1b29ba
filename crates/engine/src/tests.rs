mod answers;
mod fake;
mod scheduling;
mod threads;
mod validation;
