from adm_jax.types import InputError

try:
    import mujoco as _mujoco  # noqa: F401
except RuntimeError as error:  # of MUJOCO_GL, which it reads when it is imported
    raise InputError(f"MUJOCO_GL: {error}; unset it, or one of egl, glfw, osmesa") from error
