"""Three lines: register, find, call."""

import musterd

registration = musterd.register("cognitive_organ_1", port=8000)  # kept until the process ends
target = musterd.Router().pick("cognitive_organ_1", wait=5)  # a live instance, from a cache
print(f"call {target.url} with lease {target.lease_id}")
