"""The schemas of all answers, one module a noun; answers are encoded by the routes, and tests hold them to these models."""
