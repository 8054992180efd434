-- A selection may exclude targets that its groups or its selector would find.
alter table job_targets drop constraint job_targets_kind_check;
alter table job_targets add constraint job_targets_kind_check
  check (kind in ('id', 'group', 'selector', 'exclude'));
