"""A Ray actor that joins under its name. Ray restarts it as a new instance of that name."""

import musterd.ray
import ray


@ray.remote(max_restarts=-1)
class Organ:
    def __init__(self) -> None:
        self.registration = musterd.ray.register(self)

    def lease(self) -> int:
        return self.registration.require()


if __name__ == "__main__":
    organ = Organ.options(name="ray_example").remote()
    print("lease", ray.get(organ.lease.remote()))
