-- The credential that the label `credential` of a mirrored target names; credential_id, which is set
-- here, comes first.
alter table targets add column label_credential_id bigint references credentials (id);
create index on targets (label_credential_id) where label_credential_id is not null;
