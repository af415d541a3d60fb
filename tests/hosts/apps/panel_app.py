import json
import os

import panel as pn

from mlc_widget import ChatWidget, KernelMLCEngine

pn.extension("ipywidgets")
engine = KernelMLCEngine(runtime="scripted", runtime_options=json.loads(os.environ["SCRIPT"]))
engine.reload(os.environ["MODEL"])
pn.panel(ChatWidget(engine)).servable()
