-- lines: how many lines of output begin in this entry. Windows of lines are found by their sums.
alter table execution_log add column lines integer;

-- open_lines: 1: the last line of stdout has no line feed yet, 2: that of stderr; so that a worker
-- that takes over counts no line twice.
alter table job_execution_results add column open_lines smallint not null default 0;
