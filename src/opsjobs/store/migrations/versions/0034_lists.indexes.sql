-- By what lists of what grows are filtered.
create index audit_log_request on audit_log (request_id, id);
create index audit_log_thing_id on audit_log (thing_id, id);
create index audit_log_thing_name on audit_log (thing_name, id);
create index audit_log_address on audit_log (address, id);
create index audit_log_person on audit_log (person, id);
create index audit_log_action on audit_log (action, id);
create index audit_log_things on audit_log (thing, id);
create index approvals_status on approvals (status, id);
create index approvals_decided_by on approvals (decided_by, id);
create index files_name on files (name, id);
create index files_created_by on files (created_by, id);
create index files_created on files (created_at, id);
create index file_contents_hex on file_contents (encode(sha256, 'hex'));
create index schedule_executions_status on schedule_executions (schedule_id, status, due_at, id);
create index schedule_executions_rule on schedule_executions (schedule_id, rule, due_at, id) where rule is not null;
create index audit_log_actor_kind on audit_log (actor_kind, id);
