"Everything public, for `from coderank_qdrant.all import *`."
from coderank_qdrant.chunks import *
from coderank_qdrant.corpus import *
from coderank_qdrant.places import *
from coderank_qdrant.models import *
from coderank_qdrant.routing import *
from coderank_qdrant.devices import *
from coderank_qdrant.batching import *
from coderank_qdrant.cache import *
from coderank_qdrant.planning import *
from coderank_qdrant.progress import *
from coderank_qdrant.parallel import *
from coderank_qdrant.outputs import *
from coderank_qdrant.pipeline import *
from coderank_qdrant.stores import *
from coderank_qdrant.search import *
from coderank_qdrant.evaluate import *
from coderank_qdrant.kaggle import *
