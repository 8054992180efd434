-- NULL: what an execution brought from a target, and what came before this.
alter table file_contents add column written_by text;
alter table file_contents add column written_by_kind text;
