"""OpsConductor's Job Execution Service: agentless jobs over SSH."""

__version__ = "0.1.0"
