#: Merely unknown: a warning, and an approval in production or if a policy says so.
%CMD% /x
set x=%1& %x%
