"""Public zoos in their own layouts: read into our zoos without unpickling, and written so that official codes run.

docs/zoos.md says which files each layout has. :func:`import_zoo` and :func:`export_zoo` are the doors.
"""

from converters.public_zoos.registry import LAYOUTS as LAYOUTS
from converters.public_zoos.registry import export_zoo as export_zoo
from converters.public_zoos.registry import import_zoo as import_zoo
