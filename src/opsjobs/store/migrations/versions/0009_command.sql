-- Workers of the release before go on beside this schema: they leave it null, and what is null is said by the definition.
-- command: the line as it was run, where that is not the line of the definition.
alter table job_execution_results add column command text;
