-- When the connection that an action began over was logged in to, on the clock of its worker: where that was waited for.
alter table job_execution_results add column logged_in tstzrange;
