"""The HTTP API: FastAPI, one file a noun, and the layers that every request passes."""
