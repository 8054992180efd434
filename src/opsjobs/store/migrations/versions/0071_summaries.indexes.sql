create index execution_specs_summary on execution_specs (execution_id) include (summary) where summary is not null;
