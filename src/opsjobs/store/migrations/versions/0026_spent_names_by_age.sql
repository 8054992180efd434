-- Machines come and go by the thousand: their names are let go of with the executions of their time. Those of people are kept.
create index spent_names_of_targets on spent_names (spent_at) where noun = 'target';
