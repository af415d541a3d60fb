import json
import os

from shiny import App, ui
from shinywidgets import output_widget, render_widget

from mlc_widget import ChatWidget, KernelMLCEngine

engine = KernelMLCEngine(runtime="scripted", runtime_options=json.loads(os.environ["SCRIPT"]))
engine.reload(os.environ["MODEL"])


def server(input, output, session):
    @render_widget
    def chat():
        return ChatWidget(engine)


app = App(ui.page_fluid(output_widget("chat")), server)
