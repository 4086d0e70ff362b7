"""SGLang servers and the router before them: started, asked, counted, restarted, ended. Leaders only."""
